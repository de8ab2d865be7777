"""The fleet in numbers, which the monitor counts and stores and every process reads; diagnosis of an installation."""
