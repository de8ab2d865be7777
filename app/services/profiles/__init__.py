"""Browser profiles: their directory, links to accounts, leases, and the sync with GoLogin."""
