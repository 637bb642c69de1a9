"""Do two models answer for the same reasons?"""
