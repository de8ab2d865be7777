"""Parts that several packages of services use: access scopes, paging, leases, grouped commits, isolation."""
