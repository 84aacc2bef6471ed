"""What every hop agrees on, and the API no pod answers."""
