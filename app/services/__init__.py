"""What the service does. No web framework and no HTTP client in here."""
