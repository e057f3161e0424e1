"""A catalogue as a web page and an API: `nearkin serve`."""
