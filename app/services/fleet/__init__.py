"""The fleet in numbers: the monitor counts and stores them, every process reads them."""
