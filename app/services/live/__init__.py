"""Live views: a session's running browser, shown to people who may act in it while it waits for a person."""
