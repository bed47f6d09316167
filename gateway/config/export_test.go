package config

// Problems are those of reading alone, without what Validate checks between
// settings.
func (c *Config) Problems() Problems { return c.unread }
