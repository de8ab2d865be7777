"""The job queue that delivers the ids of waiting sessions."""
