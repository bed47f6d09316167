package natsbus

// Names for the tests outside the package.

const PrefixBytesMax = prefixBytesMax

var AppendSubject = appendSubject
