// Package access says who may use the gateway's private API, and for which
// channels.
//
// A Publisher is one who may, with the one way he shows it by:
//
//	a token      Authorization: Bearer TOKEN, or Fastly-Key: TOKEN
//	a key        Authorization: Bearer JWT, signed with it
//	a JWKS       Authorization: Bearer JWT, signed with a key of that set, which is
//	             read from a URL or a file now and then
//	a password   Authorization: Basic …
//
// These are all the forms in which GRIP_URL makes libraries publish.
//
//	list, err := access.New(access.Options{Publishers: []access.Publisher{
//		{Name: "app", Tokens: []string{"s3cret"}, Channels: []string{"news.*"}, Rate: 100},
//	}})
//	key, err := list.Admit(request)       // errors: ErrMissing, ErrUnknown, …
//	ok := key.May("news.sports")
//	wait, err := key.Take(3)              // items
//
// It is not for clients: they are the origins' business.
//
// # What a token cannot do
//
// Nothing that a token says is believed before its signature is verified. Its
// issuer chooses among the configured publishers, never what is fetched; its kid
// chooses among the keys of that publisher's own set, never among those of
// another; its alg must be one that the key is for. So a token can be signed
// with HS256 and a public key, name the key of another issuer, or say none: it is
// refused. Headers that bring keys (jku, jwk, x5u, x5c) are not read, and a token
// with crit is refused.
//
// # Looks wrong, is not
//
//   - Tokens are compared by their SHA-256, all of them, in constant time: how
//     long it takes tells neither how far a guess was right nor whose it was.
//   - A token without a kid is only taken if one key of the set can have made
//     it. Trying all would let anybody make the gateway work.
package access
