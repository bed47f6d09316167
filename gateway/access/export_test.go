package access

// Client fetches key sets.
var Client = client

// ParseJWKS returns how many keys of a set are usable.
func ParseJWKS(data []byte) (int, error) {
	keys, err := parseJWKS(data)
	return len(keys), err
}
