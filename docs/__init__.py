"""Pages for people, and the script that writes two of them from the code."""
