"""The cache: may an answer be looked up or stored, under which keys, and where it is kept."""
