-- What a provider said of a refused key or an unknown model: its own words, on one short line, without
-- secrets. Of nothing else, so that no prompt or answer is ever here.
ALTER TABLE attempts ADD COLUMN said TEXT;
