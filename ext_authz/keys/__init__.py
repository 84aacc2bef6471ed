"""Keys to check credentials with: published JWKS of issuers, and our own API keys' hashes."""
