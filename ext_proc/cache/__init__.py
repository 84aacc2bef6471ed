"""The exact cache: may it be looked up or stored, under which key."""
