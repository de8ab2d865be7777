"""Operation: alarms, counts of the fleet, retention, and the runs of periodic workers."""
