"""The only code that speaks to the outside: GoLogin, the OAuth provider, and the browsers' DevTools."""
