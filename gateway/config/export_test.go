package config

// Problems are those of reading alone, without what Validate checks between
// settings.
func (c *Config) Problems() Problems { return c.unread }

// ReadText returns the problems of a gripway.toml that path would hold.
func ReadText(path string, data []byte) Problems {
	said, problems := readText(path, data)
	c := Config{unread: problems}
	c.setAll(said)
	return c.unread
}
