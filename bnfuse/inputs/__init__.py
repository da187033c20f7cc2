"""What models are fed with: the declared inputs, made values, and the data of users."""
