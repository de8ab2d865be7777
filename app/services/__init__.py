"""Services: the work itself. No web framework and no HTTP client in here."""
