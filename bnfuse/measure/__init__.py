"""How fast models are: rounds of calls, fresh processes, profiles, and what is concluded from them."""
