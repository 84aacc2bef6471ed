"""Similar questions: remembers what was asked, and says which stored answer a new question may be given."""
