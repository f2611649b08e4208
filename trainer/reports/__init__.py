"""A run, or several, on one page: `report.html`."""
