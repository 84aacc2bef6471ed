"""Words every hop shares: ids, units, headers, errors, clock, admission record. No I/O."""
