"""What happened: records, filters, spans, the cell's side and the host's side."""
