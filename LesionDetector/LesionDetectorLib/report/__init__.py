"""A reading for people: `text` for the report, `table` for spreadsheets, `page` to look at, `figures` of every
lesion."""
