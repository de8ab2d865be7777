"""API keys: making, authentication, rotation and state."""
