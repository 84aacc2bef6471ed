"""The one reader of the environment and of policy files."""
