package wsoverhttp

// DecodeLenient reads a body as a Client does that is not Strict.
func DecodeLenient(body []byte) ([]Event, error) {
	found, err := check(body, false)
	if err != nil {
		return nil, err
	}
	return found.events(body), nil
}

// EncodedLen is how long the Client thinks the encoded events are.
func EncodedLen(events ...Event) int {
	n := 0
	for _, event := range events {
		n += encodedLen(event)
	}
	return n
}
