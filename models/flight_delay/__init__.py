"""Will a flight arrive over 15 minutes late, as known at its scheduled departure?"""
