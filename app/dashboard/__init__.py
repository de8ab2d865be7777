"""The operators' page at /ui: pages rendered here, from the same services as the API; it holds no rules of its own.

A view is a router in `views/` and its templates. `ROUTES` of `routes.py` lists them; `SignedInRoute` of `page_route.py`
checks sign-in, origin and form token before a handler runs, and makes a page of each refusal.
"""
