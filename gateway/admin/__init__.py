"""What an operator does: keys, budgets, reports. Neither a command line nor HTTP: both call this."""
