"""Files as a whole: the one door into them, their versions, replacing and changing them such that nothing is lost."""
