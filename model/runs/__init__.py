"""Runs side by side: what differs in their configurations, and what each of them reached."""
