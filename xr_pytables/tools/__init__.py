"""What is done with whole files: checked, compared, converted, repacked, timed. Functions; `commands` calls them."""
