"""Webhooks: endpoints, the fan-out of events, deliveries and their order for each account."""
