"""Requests and responses: one file per resource."""
