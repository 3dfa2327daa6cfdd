"""The only room that imports llamafactory: each function here is named by one row of register.py."""
