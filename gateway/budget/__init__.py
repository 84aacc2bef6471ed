"""The ledger: protocol, executable specification, Lua."""
