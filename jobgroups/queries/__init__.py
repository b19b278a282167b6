"""Every read of the database, but for those of the HTML pages."""
