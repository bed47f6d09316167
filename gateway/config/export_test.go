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

// INIValue is what ParseINI found.
type INIValue struct {
	Text string
	Line int
}

// ParseINI is the reader of pushpin.conf alone.
func ParseINI(path string, data []byte) (map[string]INIValue, Problems) {
	said, problems := parseINI(path, data)
	values := make(map[string]INIValue)
	for key, v := range said {
		values[key] = INIValue{v.text, v.line}
	}
	return values, problems
}
