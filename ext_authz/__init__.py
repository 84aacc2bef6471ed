"""Who calls? Credential to Principal, allow or deny."""
