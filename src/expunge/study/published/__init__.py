"""Numbers that papers print, transcribed: to be set beside ours, never mixed with them."""
