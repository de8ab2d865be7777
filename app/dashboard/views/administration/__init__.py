"""Views of keys, apps, webhooks, events and health."""
