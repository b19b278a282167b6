"""Every read of the database, except those of the HTML pages."""
