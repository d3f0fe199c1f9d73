package compiler

// validate finds what makes a target impossible to build whatever its Dockerfile
// says.
func (o *Options) validate(t *definition) error {
	return nil
}
