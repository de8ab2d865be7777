"""The provider of single sign-on (OpenID Connect): the only code that uses Authlib."""
