"""Everything drawn: charts, galleries, and the report on one page. Read ``presentation`` first."""
