"""The real SGLang on this machine: its environment, its model, its command line."""
