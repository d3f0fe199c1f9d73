// Package nodecert makes the certificates by which a client and its nodes know each
// other: an authority, one certificate for the client, one for each node.
//
// They are files of one directory:
//
//	ca.pem, ca-key.pem                       the authority
//	client.pem, client-key.pem               the client
//	NODE/ca.pem, NODE/cert.pem, NODE/key.pem all that a node needs
//
// A node's certificate is good for serving only, so an intruder on a node cannot talk to
// the others with it. Keys are ECDSA on P-256 in PKCS #8, and readable by their owner
// alone. Nothing is ever overwritten: [Make] makes what is missing, so that nodes can be
// added with the authority that is there.
package nodecert
