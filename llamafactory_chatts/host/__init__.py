"""The only package that imports llamafactory: each function here is named by one row of register.py."""
