"""Events: recording, order, lists, exports and the live stream of the one table that all of them read."""
